"""Networks of events, as files of NIR describe them."""
