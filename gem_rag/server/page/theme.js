// Before the first paint, so that nothing flashes: the look the user chose, or the system's.
document.documentElement.dataset.theme = localStorage.getItem("gem-rag:theme") ?? "system";
