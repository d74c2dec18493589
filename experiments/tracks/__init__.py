"""Benchmark tracks, `glimpse compare TRACK`: fixed protocols, players, statistics, leaderboard."""
