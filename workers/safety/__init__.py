"""The safety methods, one file each. Imports torch and the contract only."""
