"""What the software says of real data, as pages: run by hand, on data that is not shipped."""
