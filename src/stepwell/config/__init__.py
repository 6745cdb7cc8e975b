"""Which app and which database: `stepwell.toml`, `[tool.stepwell]` in pyproject.toml, and the environment."""
