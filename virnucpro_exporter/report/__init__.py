"""Report: what each worker of a run did, as text and as a page."""
