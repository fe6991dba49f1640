"""The quota service's vocabulary: units, holds, projects, applications, rates. Pure; standard library only."""
