"""Used by client and edge alike: paths, addresses, the event loop's thread, supervision of tasks."""
