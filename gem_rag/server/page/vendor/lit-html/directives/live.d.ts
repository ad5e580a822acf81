export declare function live<T>(value: T): T;
