export declare function guard(values: unknown[], template: () => unknown): unknown;
