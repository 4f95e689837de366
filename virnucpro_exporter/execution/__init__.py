"""Run loop: events to the scheduler, commands to the workers."""
