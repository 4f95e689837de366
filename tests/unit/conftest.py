"""What holds for all property tests."""

from hypothesis import settings

# A test does not depend on how fast the machine is.
settings.register_profile("at any pace", deadline=None)
settings.load_profile("at any pace")
