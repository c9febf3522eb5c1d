"""Long-running processes of `virnuc up`: their supervisor, and the server of the report pages."""
