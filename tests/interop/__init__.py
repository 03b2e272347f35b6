"""The real MindSpore, Google's protobuf, `cryptography` and `gmssl` as oracles of our files."""
