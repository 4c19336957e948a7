"""A hundred small tasks at once, and a chain of two, without retries: what fails stays failed."""

from airflow.sdk import dag, task


@dag(schedule=None, tags=["test"])
def many_tasks() -> None:
    @task(retries=0)
    def count(number: int) -> int:
        return number

    @task(retries=0)
    def add(numbers: list[int]) -> int:
        return sum(numbers)

    add(count.expand(number=list(range(100))))


@dag(schedule=None, tags=["test"])
def two_tasks() -> None:
    @task(retries=0)
    def first() -> int:
        return 1

    @task(retries=0)
    def second(number: int) -> int:
        return number + 1

    second(first())


many_tasks()
two_tasks()
