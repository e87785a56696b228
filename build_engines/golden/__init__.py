"""Golden answers: recorded by the build, compared at every start."""
