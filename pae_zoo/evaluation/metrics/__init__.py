"""Numbers from arrays; no model is seen here."""
