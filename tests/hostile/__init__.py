"""Hostile input: each door of each verb and public function."""
