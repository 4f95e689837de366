"""Fixtures that any test may use."""

from hypothesis import settings

pytest_plugins = ["tests.nvml_stub.stub", "tests.gpu_sources"]

# A test does not depend on how fast the machine is.
settings.register_profile("at any pace", deadline=None)
settings.load_profile("at any pace")
