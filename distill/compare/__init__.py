"""Many runs side by side: methods, seeds and settings, paired and tabled."""
