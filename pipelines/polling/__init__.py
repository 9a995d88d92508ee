"""Asking venues' public endpoints once: what one run asks, how patiently, and where the answers are kept."""
