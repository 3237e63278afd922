"""What torch's own caching allocator does, on a device that is not there, and traces of it."""
