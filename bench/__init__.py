"""Benchmarks of fastfake against torch's own FakeTensor and against eager torch.

Run a suite with `python -m bench SUITE`; `python -m bench --help` lists the suites.
"""
