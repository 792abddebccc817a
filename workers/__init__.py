"""The GPU side: RQ lifecycle, the engine, the safety methods, models, storage of pictures."""
