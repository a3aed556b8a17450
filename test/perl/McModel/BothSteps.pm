# What can happen in the model of audiences in both directions, step by step; drawn as in Steps.pm, whose faults it has.
#
#   McModel::BothSteps::one($model, $draw);

package McModel::BothSteps;

use strict;
use warnings;
use JSON::PP;
use McModel::Draw;
use McModel::Steps;

my %column = (FNAME => 'first_name', LNAME => 'last_name', CITY => 'city', BORN => 'born', NICK => 'nick', NOTE => 'note', PHONE => 'phone');
my @tags = ('FNAME', 'LNAME', 'CITY', 'BORN', 'NICK', 'NOTE', 'PHONE');
# values that come back, some of which one side takes for the same
my %values = (FNAME => [ 'Ann', 'Bob', 'Ann ' ], LNAME => [ 'de vries', 'De Vries', 'Smith' ], CITY => [ 'Paris', 'PARIS', 'Rome' ],
	BORN => [ '1970-01-31', '01/31/1970', '2001-12-01' ], NICK => [ 'Bo', 'Mr Bo', 'Al' ], NOTE => [ 'a', 'b' ], PHONE => [ '1', '2' ]);

# while the engine rests, and while it works
my @both = (
	'a new row' => [ 6, sub {
		my ($m, $d) = @_;
		my $kind = kind($d);
		$m->sql(insert($m, $d, $kind, 1 + $d->int(14), address($d, $kind)));
	} ],
	'a changed row' => [ 10, sub { my ($m, $d) = @_; my $kind = kind($d); $m->sql("UPDATE crm.$kind SET " . change($m, $d) . ' WHERE ' . row($d, $kind)) } ],
	'a new address' => [ 4, sub { my ($m, $d) = @_; my $kind = kind($d); $m->sql("UPDATE crm.$kind SET email = 'r$m->{step}\@m.test' WHERE " . row($d, $kind)) } ],
	'another spelling' => [ 2, sub {
		my ($m, $d) = @_;
		my $kind = kind($d);
		$m->sql(sprintf 'UPDATE crm.%s SET email = %s WHERE %s', $kind, $d->of('upper(email)', q{' ' || email}, 'lower(btrim(email))'), row($d, $kind));
	} ],
	'the rule' => [ 2, sub { my ($m, $d) = @_; my $kind = kind($d); $m->sql("UPDATE crm.$kind SET active = NOT active WHERE " . row($d, $kind)) } ],
	'tags' => [ 2, sub { my ($m, $d) = @_; my $kind = kind($d); $m->sql(sprintf "UPDATE crm.%s SET groups = '{%s}' WHERE %s", $kind, $d->of('', 'Java', 'Java,Perl'), row($d, $kind)) } ],
	'a deleted row' => [ 1, sub { my ($m, $d) = @_; my $kind = kind($d); $m->sql("DELETE FROM crm.$kind WHERE " . row($d, $kind)) } ],
	'many rows' => [ 1, sub { my ($m, $d) = @_; my $kind = kind($d); $m->sql(sprintf 'UPDATE crm.%s SET %s WHERE id %% 3 = %d', $kind, change($m, $d), $d->int(3)) } ],

	'a new member' => [ 6, sub {
		my ($m, $d) = @_;
		my $kind = kind($d);
		$m->act($kind, address($d, $kind), 'add', { status => $d->weighted(subscribed => 8, unsubscribed => 1, pending => 1), merge_fields => { map { there($m, $d, $_) } @tags } });
	} ],
	'an edit there' => [ 10, sub { my ($m, $d) = @_; my $kind = kind($d); member_act($m, $d, $kind, 'edit', { merge_fields => { map { there($m, $d, $_) } $d->of(@tags), $d->of(@tags) } }) } ],
	'a new address there' => [ 4, sub { my ($m, $d) = @_; my $kind = kind($d); member_act($m, $d, $kind, 'change_email', { new_email => "s$m->{step}\@m.test" }) } ],
	'what the CRM refuses' => [ 1, sub { my ($m, $d) = @_; my $kind = kind($d); member_act($m, $d, $kind, 'edit', { merge_fields => { LNAME => $d->of('Refused', 'refused') } }) } ],
	'another status there' => [ 4, sub {
		my ($m, $d) = @_;
		member_act($m, $d, kind($d), $d->weighted(unsubscribe => 3, admin_unsubscribe => 2, clean => 1, archive => 2, resubscribe => 4, confirm => 2, delete_permanent => 1), {});
	} ],
	'a tag there' => [ 1, sub { my ($m, $d) = @_; member_act($m, $d, kind($d), 'tag', { tag => 'hand' . $d->int(3) }) } ],
	'both sides' => [ 24, \&both_sides ],

	'an opt-out' => [ 1, sub {
		my ($m, $d) = @_;
		my $kind = kind($d);
		$m->sql($d->one_in(2) ? sprintf(q{SELECT mc_opt_out_email('%s')}, address($d, $kind)) : "SELECT mc_opt_out('$kind', id) FROM crm.$kind WHERE " . row($d, $kind));
	} ],
	'an opt-in' => [ 1, sub {
		my ($m, $d) = @_;
		my $kind = kind($d);
		my $address = address($d, $kind);
		$m->sql("BEGIN; SELECT mc_opt_in_email('$address'); SELECT mc_opt_in('$kind', id) FROM crm.$kind WHERE lower(btrim(email)) = '$address';
			DELETE FROM model.opted WHERE address = '$address'; COMMIT");
	} ],
	'an erasure' => [ 1, sub { my ($m, $d) = @_; my @members = $m->members(kind($d)); $m->erase($members[ $d->int(scalar @members) ]{email_address}) if @members } ],
	'a full comparison' => [ 1, sub { my ($m, $d) = @_; $m->sql(sprintf q{SELECT mc_sync_audience('%s')}, kind($d)) } ],
	'time' => [ 3, sub { my ($m, $d) = @_; $m->later($d->of(3, 10)) } ]);

my @work = (
	@both,
	'a pull' => [ 4, sub { my ($m, $d) = @_; $m->sql(sprintf q{SELECT mc_pull('%s')}, kind($d)) } ],
	'an address that others have or had' => [ 3, sub { my ($m, $d) = @_; my $kind = kind($d); $m->sql(sprintf q{UPDATE crm.%s SET email = '%s' WHERE %s}, $kind, address($d, $kind), row($d, $kind)) } ],
	'such an address there' => [ 2, sub { my ($m, $d) = @_; my $kind = kind($d); member_act($m, $d, $kind, 'change_email', { new_email => address($d, $kind) }) } ],
	'a transaction that stays open' => [ 2, sub { my ($m, $d) = @_; my $kind = kind($d); $m->slow("UPDATE crm.$kind SET " . change($m, $d) . ' WHERE ' . row($d, $kind)) } ],
	'its end' => [ 3, sub { my ($m, $d) = @_; $m->slow_end($d->weighted(COMMIT => 3, ROLLBACK => 1)) } ],
	'a fault' => [ 5, \&McModel::Steps::fault ],
	'a hold' => [ 3, sub { my ($m, $d) = @_; $m->control('holds', { McModel::Steps::route($d), nth => 1 + $d->int(3), when => $d->of('before', 'after') }) } ],
	'a release' => [ 3, sub { my ($m, $d) = @_; $m->control('holds/release', { all => JSON::PP::true }) } ],
	'much time' => [ 3, sub { my ($m, $d) = @_; $m->later($d->of(30, 140, 700)) } ],
	'a while' => [ 14, sub { my ($m, $d) = @_; $m->wait_request } ],
	'a killed worker' => [ 0.5, sub { $_[0]->kill_worker } ],
	'a stopped server' => [ 0.25, sub { $_[0]->stop_server } ],
	'no worker' => [ 1, sub { $_[0]->stop_worker } ],
	'a worker' => [ 2, sub { $_[0]->start_worker } ],
	'CALL mc_run()' => [ 2, sub { $_[0]->run } ],
	'a pause' => [ 1, sub { my ($m, $d) = @_; $m->sql(sprintf q{SELECT mc_pause('main', '%s')}, kind($d)) } ],
	'a resumption' => [ 2, sub { my ($m, $d) = @_; $m->resume } ]);

sub table
{
	my (@steps) = @_;
	my (@weights, %does);
	while (my ($name, $step) = splice @steps, 0, 2)
	{
		push @weights, $name, 4 * $step->[0];
		$does{$name} = $step->[1];
	}
	return { weights => \@weights, does => \%does };
}
my ($rest_table, $work_table) = (table(@both), table(@work));

sub one
{
	my ($m, $d) = @_;
	my $table = $m->{rests} ? $rest_table : $work_table;
	$m->{doing} = $d->weighted(@{ $table->{weights} });
	$table->{does}{ $m->{doing} }->($m, $d);
}

# Some people on either side, and some on both, before anything is known of the other.
sub begin
{
	my ($m) = @_;
	for my $kind (@McModel::Both::kinds)
	{
		my $letter = substr $kind, 0, 1;
		$m->sql(join '; ', map { insert($m, McModel::Draw->new($m->{seed}, -$_), $kind, $_, "$letter$_\@m.test") } 1 .. 6);
		for my $n (5 .. 9)
		{
			my $d = McModel::Draw->new($m->{seed}, -10 - $n);
			$m->act($kind, "$letter$n\@m.test", 'add', { merge_fields => { map { there($m, $d, $_) } @tags } });
		}
	}
}

# ---- what is drawn

sub kind { my ($d) = @_; return $d->of(@McModel::Both::kinds) }

# an address of a small pool of each kind, so that both sides get the same one
sub address { my ($d, $kind) = @_; return substr($kind, 0, 1) . $d->int(10) . '@m.test' }

# an existing row, the first ones more often
sub row
{
	my ($d, $kind) = @_;
	return sprintf 'id = (SELECT id FROM crm.%s ORDER BY id OFFSET %d %% greatest((SELECT count(*) FROM crm.%1$s), 1) LIMIT 1)', $kind, $d->int(20);
}

# a value for a field: nothing, one that comes back, one that never was
sub value
{
	my ($m, $d, $tag) = @_;
	my $unique = $tag eq 'BORN' ? sprintf('%d-%02d-%02d', 1950 + $m->{step} % 50, 1 + $m->{step} % 12, 1 + $d->int(28)) : lc($tag) . $m->{step} . $d->of('', 'x');
	return $d->weighted('' => 2, $d->of(@{ $values{$tag} }) => 4, $unique => 6, $tag eq 'FNAME' ? ("long$m->{step} " x 40 => 1) : ());
}

sub here { my ($m, $d, $tag) = @_; my $value = value($m, $d, $tag); return "$column{$tag} = " . ($value eq '' && $d->one_in(2) ? 'NULL' : "'$value'") }
sub there { my ($m, $d, $tag) = @_; return ($tag => value($m, $d, $tag)) }

sub change { my ($m, $d) = @_; return join ', ', map { here($m, $d, $_) } $d->one_in(3) ? @{ $d->of([ 'FNAME', 'CITY' ], [ 'LNAME', 'NICK' ], [ 'BORN', 'NOTE' ]) } : $d->of(@tags) }

sub insert
{
	my ($m, $d, $kind, $id, $address) = @_;
	return sprintf q{INSERT INTO crm.%s (id, email, %s) VALUES (%d, '%s', %s) ON CONFLICT DO NOTHING}, $kind, join(', ', map { $column{$_} } @tags), $id, $address,
	  join ', ', map { "'" . value($m, $d, $_) . "'" } @tags;
}

sub member_act
{
	my ($m, $d, $kind, $action, $more) = @_;
	my @members = $m->members($kind);
	$m->act($kind, $members[ $d->int(scalar @members) ]{email_address}, $action, $more) if @members;
}

# The same field of a row and of its member, or the address of both, in either order.
sub both_sides
{
	my ($m, $d) = @_;
	my $kind = kind($d);
	my @members = grep { $_->{status} eq 'subscribed' } $m->members($kind);
	return unless @members;
	my $address = $members[ $d->int(scalar @members) ]{email_address};
	my $row = "lower(btrim(email)) = lower('$address')";
	my $tag = $d->of(@tags, 'FNAME', 'LNAME', 'CITY', 'EMAIL');
	my @does = $tag eq 'EMAIL'
	  ? (sub { $m->sql("UPDATE crm.$kind SET email = 'r$m->{step}\@m.test' WHERE $row") }, sub { $m->act($kind, $address, 'change_email', { new_email => "s$m->{step}\@m.test" }) })
	  : (sub { $m->sql("UPDATE crm.$kind SET " . here($m, $d, $tag) . " WHERE $row") }, sub { $m->act($kind, $address, 'edit', { merge_fields => { there($m, $d, $tag) } }) });
	@does = reverse @does if $d->one_in(2);
	push @does, $does[0] if $d->one_in(6) && $tag ne 'EMAIL';
	for my $does (@does)
	{
		$m->later(4) if $m->{rests} && $kind eq 'latest_wins';
		$does->();
	}
}

1;
