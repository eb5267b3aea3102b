"""Unit tests touch nothing outside the folder they are given and namespaces they make themselves."""
