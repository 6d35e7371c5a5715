"""Physics of parallel-beam CT: where rays run, what they sum, how noise enters, and the closed-form inverse."""
