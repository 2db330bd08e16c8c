"""The paper's central claims at the scale of this repository; see docs/claims.md."""
