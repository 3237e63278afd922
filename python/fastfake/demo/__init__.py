"""The demonstration behind ``python -m fastfake demo``: one model, both fake tensors, side by side."""
