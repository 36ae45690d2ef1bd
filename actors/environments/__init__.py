"""What decision policies act in: backends, captioners, presets."""
