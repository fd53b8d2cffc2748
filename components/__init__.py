"""One Pulumi component for each part of the platform, and the words they share. No component imports another one."""
