"""Many runs as one thing: what an experiment consists of, who runs what, and how far it is."""
