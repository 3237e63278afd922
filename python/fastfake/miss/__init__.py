"""The miss path: what computes a call that the dispatch cache does not answer. One file a step."""
