"""What a person sees: tables and lines made of values computed elsewhere."""
