"""Golden answers: recorded at the build, compared at every start."""
