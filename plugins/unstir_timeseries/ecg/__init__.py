"""The ECG corner: heart-rate-conditioned generation on simulated records, a demonstration of conditioning."""
