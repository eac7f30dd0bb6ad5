"""What tests share: devices, commands, files made on purpose."""
