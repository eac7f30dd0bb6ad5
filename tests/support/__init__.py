"""What tests share: devices, commands, hostile files, environments."""
