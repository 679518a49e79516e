"""What every part uses: errors, files, devices, processes, audio, pictures of mels."""
