"""The functional core: events in, actions out, time an argument."""
