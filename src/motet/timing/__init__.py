"""When things happened: on the host (`clocks`), and on a device, which runs behind it (`device`)."""
