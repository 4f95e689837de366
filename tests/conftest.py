"""Fixtures that any test may use."""

pytest_plugins = ["tests.nvml_stub.stub", "tests.gpu_sources"]
