"""The one room that starts programs: qemu-img, confined by Landlock."""
