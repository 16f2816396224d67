"""Terminal views: tables and lines of values computed by other packages."""
