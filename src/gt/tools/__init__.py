"""Commands that look at what a program does under a configuration: `gt explain`, `gt check`. No torch."""
