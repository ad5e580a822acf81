declare global {
  const DOMPurify: {
    sanitize(dirty: string, options: object): DocumentFragment;
    addHook(when: string, hook: (node: Element) => void): void;
  };
}
export {};
