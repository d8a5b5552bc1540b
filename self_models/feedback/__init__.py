"""Gates, stopping rules, read-outs and encodings: what the objectives differ in."""
