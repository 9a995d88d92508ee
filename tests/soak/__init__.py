"""The soak: many scheduled runs on an accelerated clock, with faults injected, held against an undisturbed run."""
