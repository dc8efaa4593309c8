"""What the package asks of databases and does in them: connects, installs, calls, and reads what they answer."""
