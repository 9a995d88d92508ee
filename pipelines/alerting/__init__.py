"""What is worth telling of an interval, told once: conditions -> news -> messages -> sinks."""
