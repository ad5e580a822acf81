export declare function ref(to: (element: Element | undefined) => void): unknown;
