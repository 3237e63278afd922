"""Importing this module puts fastfake's classes in the place of torch's; see `fastfake.install`."""

from fastfake import install

install()
