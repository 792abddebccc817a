"""OpenAI's interface to pictures: its names, its answers, its errors, over the same jobs."""
