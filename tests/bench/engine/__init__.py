"""An engine that costs next to nothing: tokens at a set pace, behind gRPC as Triton's are, and
behind HTTP as an OpenAI-compatible server's.

The model's name says what it does: `paced` gives a token every 10 ms, `slow` one a second,
`burst` all at once, `embed` gives vectors of 1,024 numbers.
"""
