"""What every part uses: errors, files, devices, audio."""
